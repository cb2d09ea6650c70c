package filter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernel reads what nftables holds. The nftables package would do for our own
// table, but it gives up, or worse, on rules of others that hold something it
// does not know; here only as much is decoded as is asked about.
type kernel struct{ conn *netlink.Conn }

// table, chain and rule are what the kernel holds, whoever made it.
type table struct {
	family nftables.TableFamily
	name   string
	flags  uint32
}

type chain struct {
	family      nftables.TableFamily
	table, name string

	base     bool // the rest is meaningful only for a chain on a hook
	kind     nftables.ChainType
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	policy   nftables.ChainPolicy
}

type rule struct {
	chain    string
	handle   uint64
	userdata []byte
	exprs    []expression
}

// expression is one step of a rule, as the kernel encodes it.
type expression struct {
	name string
	data []byte
}

func dialKernel() (*kernel, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	return &kernel{conn}, nil
}

func (k *kernel) close() { k.conn.Close() }

// generation returns the number that grows with each change of any rule.
func (k *kernel) generation() (uint32, error) {
	var id uint32
	err := k.get(unix.NFT_MSG_GETGEN, 0, nftables.TableFamilyUnspecified, nil, func(_ nftables.TableFamily, ad *netlink.AttributeDecoder) {
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				id = ad.Uint32()
			}
		}
	})
	if err != nil {
		return 0, fmt.Errorf("read the generation of nftables: %w", err)
	}
	return id, nil
}

func (k *kernel) tables() ([]table, error) {
	var all []table
	err := k.get(unix.NFT_MSG_GETTABLE, netlink.Dump, nftables.TableFamilyUnspecified, nil, func(family nftables.TableFamily, ad *netlink.AttributeDecoder) {
		t := table{family: family}
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_TABLE_NAME:
				t.name = ad.String()
			case unix.NFTA_TABLE_FLAGS:
				t.flags = ad.Uint32()
			}
		}
		all = append(all, t)
	})
	if err != nil {
		return nil, fmt.Errorf("list the tables of nftables: %w", err)
	}
	return all, nil
}

func (k *kernel) chains() ([]chain, error) {
	var all []chain
	err := k.get(unix.NFT_MSG_GETCHAIN, netlink.Dump, nftables.TableFamilyUnspecified, nil, func(family nftables.TableFamily, ad *netlink.AttributeDecoder) {
		all = append(all, decodeChain(family, ad))
	})
	if err != nil {
		return nil, fmt.Errorf("list the chains of nftables: %w", err)
	}
	return all, nil
}

func decodeChain(family nftables.TableFamily, ad *netlink.AttributeDecoder) chain {
	c := chain{family: family}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			c.name = ad.String()
		case unix.NFTA_CHAIN_TYPE:
			c.kind = nftables.ChainType(ad.String())
		case unix.NFTA_CHAIN_POLICY:
			c.policy = nftables.ChainPolicy(ad.Uint32())
		case unix.NFTA_CHAIN_HOOK:
			c.base = true
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					switch ad.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						c.hook = nftables.ChainHook(ad.Uint32())
					case unix.NFTA_HOOK_PRIORITY:
						c.priority = nftables.ChainPriority(ad.Uint32())
					}
				}
				return nil
			})
		}
	}
	return c
}

// rules returns the rules of a chain, or of all chains of the table if the
// chain's name is empty. There are none of a table that does not exist.
func (k *kernel) rules(family nftables.TableFamily, table, chain string) ([]rule, error) {
	attrs := []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(table), 0)}}
	if chain != "" {
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: append([]byte(chain), 0)})
	}
	var all []rule
	err := k.get(unix.NFT_MSG_GETRULE, netlink.Dump, family, attrs, func(_ nftables.TableFamily, ad *netlink.AttributeDecoder) {
		var r rule
		var of string
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				of = ad.String()
			case unix.NFTA_RULE_CHAIN:
				r.chain = ad.String()
			case unix.NFTA_RULE_HANDLE:
				r.handle = ad.Uint64()
			case unix.NFTA_RULE_USERDATA:
				r.userdata = ad.Bytes()
			case unix.NFTA_RULE_EXPRESSIONS:
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						ad.Do(func(b []byte) error {
							e, err := decodeExpression(b)
							r.exprs = append(r.exprs, e)
							return err
						})
					}
					return nil
				})
			}
		}
		if of == table && (chain == "" || r.chain == chain) {
			all = append(all, r)
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the rules of %s: %w", objectName(family, table, chain), err)
	}
	return all, nil
}

func decodeExpression(b []byte) (expression, error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return expression{}, err
	}
	var e expression
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			e.name = ad.String()
		case unix.NFTA_EXPR_DATA:
			e.data = ad.Bytes()
		}
	}
	return e, ad.Err()
}

// get sends one request and has each answer decoded.
func (k *kernel) get(kind netlink.HeaderType, flags netlink.HeaderFlags, family nftables.TableFamily, attrs []netlink.Attribute, decode func(nftables.TableFamily, *netlink.AttributeDecoder)) error {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return err
	}
	answers, err := k.conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | kind,
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if err != nil {
		return err
	}
	for _, m := range answers {
		if len(m.Data) < 4 {
			return fmt.Errorf("answer of %d bytes, too short for its header", len(m.Data))
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		decode(nftables.TableFamily(m.Data[0]), ad)
		if err := ad.Err(); err != nil {
			return err
		}
	}
	return nil
}

// objectName spells a table or a chain as nft does.
func objectName(family nftables.TableFamily, table, chain string) string {
	name := fmt.Sprintf("family %d", family)
	switch family {
	case nftables.TableFamilyINet:
		name = "inet"
	case nftables.TableFamilyIPv4:
		name = "ip"
	case nftables.TableFamilyIPv6:
		name = "ip6"
	}
	name += " " + table
	if chain != "" {
		name += " " + chain
	}
	return name
}

// is reports whether the rule does exactly what the expressions say, whatever
// its counters have counted.
func (r rule) is(family nftables.TableFamily, want []expr.Any) bool {
	return slices.EqualFunc(r.exprs, want, func(have expression, want expr.Any) bool {
		encoded, err := expr.Marshal(byte(family), want)
		if err != nil {
			return false
		}
		e, err := decodeExpression(encoded)
		if err != nil || e.name != have.name {
			return false
		}
		if e.name == "counter" {
			return true
		}
		// The kernel adds attributes with their default values and has an order of
		// its own: decoded and encoded again, both are in the same form.
		a, errA := normal(family, want, e.data)
		b, errB := normal(family, want, have.data)
		return errA == nil && errB == nil && bytes.Equal(a, b)
	})
}

// verdict returns what the rule decides for the packets that it matches.
func (r rule) verdict() (v expr.Verdict, ok bool) {
	if len(r.exprs) == 0 || r.exprs[len(r.exprs)-1].name != "immediate" {
		return v, false
	}
	register, v, err := decodeImmediate(r.exprs[len(r.exprs)-1].data)
	return v, err == nil && register == unix.NFT_REG_VERDICT
}

// matchesAll reports whether the rule is for every packet.
func (r rule) matchesAll() bool {
	return len(r.exprs) > 0 && !slices.ContainsFunc(r.exprs[:len(r.exprs)-1], func(e expression) bool {
		name, _ := e.xtables()
		return e.name != "counter" && (e.name != "match" || name != "comment")
	})
}

func (r rule) returnsAll() bool {
	v, ok := r.verdict()
	return ok && v.Kind == expr.VerdictReturn && r.matchesAll()
}

// refusesAll reports whether the rule drops or rejects every packet.
func (r rule) refusesAll() bool {
	if !r.matchesAll() {
		return false
	}
	if v, ok := r.verdict(); ok {
		return v.Kind == expr.VerdictDrop
	}
	last := r.exprs[len(r.exprs)-1]
	if last.name == "reject" {
		return true
	}
	name, _ := last.xtables()
	return last.name == "target" && name == "REJECT"
}

// xtables returns the name of the iptables extension that a match or target
// expression stands for, and its data.
func (e expression) xtables() (name string, info []byte) {
	if e.name != "match" && e.name != "target" {
		return "", nil
	}
	ad, err := netlink.NewAttributeDecoder(e.data)
	if err != nil {
		return "", nil
	}
	for ad.Next() {
		// NFTA_TARGET_NAME and NFTA_TARGET_INFO are the same numbers.
		switch ad.Type() {
		case unix.NFTA_MATCH_NAME:
			name = ad.String()
		case unix.NFTA_MATCH_INFO:
			info = ad.Bytes()
		}
	}
	return name, info
}

func decodeImmediate(b []byte) (register uint32, v expr.Verdict, err error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return 0, v, err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_IMMEDIATE_DREG:
			register = ad.Uint32()
		case unix.NFTA_IMMEDIATE_DATA:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if ad.Type() != unix.NFTA_DATA_VERDICT {
						continue
					}
					ad.Nested(func(ad *netlink.AttributeDecoder) error {
						for ad.Next() {
							switch ad.Type() {
							case unix.NFTA_VERDICT_CODE:
								v.Kind = expr.VerdictKind(int32(ad.Uint32()))
							case unix.NFTA_VERDICT_CHAIN:
								v.Chain = ad.String()
							}
						}
						return nil
					})
				}
				return nil
			})
		}
	}
	return register, v, ad.Err()
}
