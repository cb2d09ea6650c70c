// Package setting is what hostgwd can be told, in one table: each setting's
// flag, its environment variables, its default, its help, and what flanneld
// does with a flag of that name. The help text, the completion and the
// documentation are made from it or checked against it.
package setting
