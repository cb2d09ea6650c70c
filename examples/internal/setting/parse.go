package setting

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// ErrHelp is returned by Parse if the help was asked for.
var ErrHelp = flag.ErrHelp

// Error says which setting was given a value it cannot take. Source is how it
// was given: "-subnet-len" or "HOSTGWD_SUBNET_LEN".
type Error struct {
	Source, Value string
	Err           error
}

func (e *Error) Error() string {
	if e.Value == "" {
		return fmt.Sprintf("%s: %v", e.Source, e.Err)
	}
	return fmt.Sprintf("%s %q: %v", e.Source, e.Value, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Result is what Parse read.
type Result struct {
	Values
	Args     []string // what is left after the flags
	Warnings []string // what an operator should know though it stops nothing
}

// Parse reads flags (one dash or two, before and between other arguments) and,
// for those not given, the environment: HOSTGWD_… before FLANNELD_…; an empty
// variable counts as absent. extra, which may be nil, adds the flags of a
// subcommand. All values are checked, and the first that is wrong is an *Error;
// ErrHelp is returned if the help was asked for.
func Parse(args, environ []string, extra func(*flag.FlagSet)) (Result, error) {
	var r Result
	fs := flag.NewFlagSet("hostgwd", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	table := Table()
	values := make(map[string]flag.Value, len(table))
	var refusal error
	for _, s := range table {
		if s.Refused {
			fs.Var(refusedValue{s, &refusal}, s.Name, "")
			continue
		}
		v := s.value(&r.Values)
		if s.Default != "" {
			if err := v.Set(s.Default); err != nil {
				return r, &Error{"default of -" + s.Name, s.Default, err}
			}
		}
		values[s.Name] = v
		fs.Var(recorded{v, s, &refusal}, s.Name, "")
	}
	if extra != nil {
		extra(fs)
	}

	for rest := joinVerbosity(args); ; {
		if err := fs.Parse(rest); err != nil {
			if refusal != nil {
				err = refusal
			}
			return r, err
		}
		if fs.NArg() == 0 {
			break
		}
		r.Args = append(r.Args, fs.Arg(0))
		rest = fs.Args()[1:]
	}

	given := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	vars := make(map[string]string, len(environ))
	for _, e := range environ {
		if name, value, ok := strings.Cut(e, "="); ok && value != "" {
			vars[name] = value
		}
	}
	for _, s := range table {
		if given[s.Name] {
			continue
		}
		name := s.Env()
		if _, ok := vars[name]; !ok {
			name = s.FlanneldEnv()
		}
		value, ok := vars[name]
		if !ok {
			continue
		}
		if s.Refused {
			return r, &Error{name, value, errors.New(s.Help)}
		}
		set := values[s.Name].Set
		if o, ok := values[s.Name].(repeated); ok {
			set = o.once
		}
		if err := set(value); err != nil {
			return r, &Error{name, value, err}
		}
	}
	for name := range vars {
		if strings.HasPrefix(name, "HOSTGWD_") && !slices.ContainsFunc(table, func(s Setting) bool { return s.Env() == name }) {
			r.Warnings = append(r.Warnings, "environment variable "+name+" is none that hostgwd knows")
		}
	}
	slices.Sort(r.Warnings)
	return r, r.check()
}

// check holds against each other the settings that only make sense together.
func (v Values) check() error {
	switch {
	case (v.EtcdCertFile == "") != (v.EtcdKeyFile == ""):
		return errors.New("-etcd-certfile and -etcd-keyfile are needed together")
	case v.EtcdPassword != "" && v.EtcdUsername == "":
		return errors.New("-etcd-password needs -etcd-username")
	case !v.Network.IsValid() && (v.SubnetLen != 0 || v.SubnetMin.IsValid() || v.SubnetMax.IsValid()):
		return errors.New("-subnet-len, -subnet-min and -subnet-max need -network")
	case !v.IPv6Network.IsValid() && (v.IPv6SubnetLen != 0 || v.IPv6SubnetMin.IsValid() || v.IPv6SubnetMax.IsValid()):
		return errors.New("-ipv6-subnet-len, -ipv6-subnet-min and -ipv6-subnet-max need -ipv6-network")
	case v.SubnetFile == "":
		return errors.New("-subnet-file must not be empty")
	}
	return nil
}

// CheckAccess fails if the settings say how to be let into an etcd and not which. The
// etcd of our own lets everybody in. A command may ask a daemon instead.
func (v Values) CheckAccess() error {
	if len(v.EtcdEndpoints) == 0 && (v.EtcdUsername != "" || v.EtcdCertFile != "" || v.EtcdCAFile != "") {
		return errors.New("-etcd-username, -etcd-certfile and -etcd-cafile need -etcd-endpoints")
	}
	return nil
}

// joinVerbosity lets a level follow -v as an argument of its own, as flanneld
// takes it, though -v also stands alone.
func joinVerbosity(args []string) []string {
	out := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		if (args[i] == "-v" || args[i] == "--v") && i+1 < len(args) {
			if _, err := strconv.Atoi(args[i+1]); err == nil {
				out = append(out, "-v="+args[i+1])
				i++
				continue
			}
		}
		out = append(out, args[i])
	}
	return out
}

// recorded remembers the error of a flag's value as an *Error, where package
// flag would only keep its text.
type recorded struct {
	flag.Value
	s   Setting
	err *error
}

func (r recorded) IsBoolFlag() bool { return r.s.Switch() }

func (r recorded) Set(s string) error {
	err := r.Value.Set(s)
	if err != nil {
		*r.err = &Error{"-" + r.s.Name, s, err}
	}
	return err
}

type refusedValue struct {
	s   Setting
	err *error
}

func (r refusedValue) String() string   { return "" }
func (r refusedValue) IsBoolFlag() bool { return r.s.Switch() }
func (r refusedValue) Set(string) error {
	*r.err = &Error{"-" + r.s.Name, "", errors.New(r.s.Help)}
	return *r.err
}
