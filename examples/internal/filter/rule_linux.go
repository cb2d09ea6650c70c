package filter

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The expressions of a rule, in the form that nft and iptables-nft write and
// know how to list. All of them use register 1.

const register = 1

// fromNetwork and toNetwork match packets whose source or destination address
// is, or with op CmpOpNeq is not, inside p. The caller has made sure that the
// packet is of p's family.
func fromNetwork(op expr.CmpOp, p netip.Prefix) []expr.Any { return address(op, p, 12, 8) }
func toNetwork(op expr.CmpOp, p netip.Prefix) []expr.Any   { return address(op, p, 16, 24) }

func address(op expr.CmpOp, p netip.Prefix, offset4, offset6 uint32) []expr.Any {
	bits, offset := p.Addr().BitLen(), offset6
	if p.Addr().Is4() {
		offset = offset4
	}
	size := uint32(bits / 8)
	match := []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
	}
	if p.Bits() < bits {
		match = append(match, &expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: size,
			Mask: net.CIDRMask(p.Bits(), bits), Xor: make([]byte, size),
		})
	}
	return append(match, &expr.Cmp{Op: op, Register: register, Data: p.Addr().AsSlice()})
}

// ofFamily matches packets of the family, in a table for both.
func ofFamily(family nftables.TableFamily) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{byte(family)}},
	}
}

// withMark matches packets that have every bit of the mark.
func withMark(mark uint32) []expr.Any {
	b := binary.NativeEndian.AppendUint32(nil, mark)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: b, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: b},
	}
}

// through matches packets that come in (MetaKeyIIFNAME) or go out
// (MetaKeyOIFNAME) through the interface.
func through(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: append([]byte(name), 0)},
	}
}

func decide(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// normal decodes data as an expression of e's type and encodes it again.
func normal(family nftables.TableFamily, e expr.Any, data []byte) ([]byte, error) {
	var fresh expr.Any
	switch e.(type) {
	case *expr.Payload:
		fresh = &expr.Payload{}
	case *expr.Bitwise:
		fresh = &expr.Bitwise{}
	case *expr.Cmp:
		fresh = &expr.Cmp{}
	case *expr.Meta:
		fresh = &expr.Meta{}
	case *expr.Masq:
		fresh = &expr.Masq{}
	case *expr.Verdict:
		// The library's decoder trusts the length of what it is given.
		register, v, err := decodeImmediate(data)
		if err != nil {
			return nil, err
		}
		if register != unix.NFT_REG_VERDICT {
			return nil, unix.EINVAL
		}
		return expr.MarshalExprData(byte(family), &v)
	default:
		return nil, unix.EOPNOTSUPP
	}
	if err := expr.Unmarshal(byte(family), data, fresh); err != nil {
		return nil, err
	}
	return expr.MarshalExprData(byte(family), fresh)
}

// dropsTo reports whether the rule drops packets to an address or a prefix that
// begins inside p, seen from a chain of the family.
func (r rule) dropsTo(family nftables.TableFamily, p netip.Prefix) bool {
	if v, ok := r.verdict(); !ok || v.Kind != expr.VerdictDrop {
		return false
	}
	load := toNetwork(expr.CmpOpEq, p)[0].(*expr.Payload)
	for i, e := range r.exprs {
		var have expr.Payload
		if e.name != "payload" || expr.Unmarshal(byte(family), e.data, &have) != nil ||
			have.Base != load.Base || have.Offset != load.Offset || have.Len > load.Len {
			continue
		}
		rest := r.exprs[i+1:]
		if len(rest) > 0 && rest[0].name == "bitwise" {
			rest = rest[1:]
		}
		var c expr.Cmp
		if len(rest) == 0 || rest[0].name != "cmp" || expr.Unmarshal(byte(family), rest[0].data, &c) != nil ||
			c.Op != expr.CmpOpEq || len(c.Data) > int(load.Len) {
			continue
		}
		// iptables loads and compares only the bytes that a prefix fills.
		a, _ := netip.AddrFromSlice(append(c.Data, make([]byte, int(load.Len)-len(c.Data))...))
		return p.Contains(a)
	}
	return false
}
