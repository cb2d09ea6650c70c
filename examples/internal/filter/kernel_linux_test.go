package filter

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func encode(t testing.TB, exprs []expr.Any) rule {
	var r rule
	for _, e := range exprs {
		b, err := expr.Marshal(unix.NFPROTO_IPV4, e)
		if err != nil {
			t.Fatal(err)
		}
		x, err := decodeExpression(b)
		if err != nil {
			t.Fatal(err)
		}
		r.exprs = append(r.exprs, x)
	}
	return r
}

// A rule is told from each that differs from it in one thing, but not by what
// its counter has counted.
func TestRuleIs(t *testing.T) {
	f := config().families()[0]
	wanted := config().exception(f)[0]
	r := encode(t, wanted)
	counted := slices.Clone(wanted)
	for i, e := range counted {
		if _, ok := e.(*expr.Counter); ok {
			counted[i] = &expr.Counter{Bytes: 1, Packets: 1}
		}
	}
	for _, same := range [][]expr.Any{wanted, counted} {
		if !encode(t, same).is(f.id, wanted) {
			t.Errorf("%v is not %v", same, wanted)
		}
	}
	other := config()
	other.Uplink = "up1"
	longer := f
	longer.Network = netip.PrefixFrom(f.Network.Addr(), 17)
	for name, exprs := range map[string][]expr.Any{
		"uplink":    other.exception(f)[0],
		"network":   config().exception(longer)[0],
		"direction": config().exception(f)[1],
		"verdict":   append(slices.Clone(wanted[:len(wanted)-1]), &expr.Verdict{Kind: expr.VerdictDrop}),
		"jump":      append(slices.Clone(wanted[:len(wanted)-1]), &expr.Verdict{Kind: expr.VerdictJump, Chain: "x"}),
		"shorter":   wanted[1:],
		"none":      nil,
	} {
		if r.is(f.id, exprs) {
			t.Errorf("another %s makes no difference", name)
		}
	}
}

// Whatever others have put into a rule, looking at it ends well.
func FuzzRule(f *testing.F) {
	f.Add("immediate", []byte{}, []byte{0, 255, 1})
	for _, exprs := range config().exception(config().families()[0]) {
		for _, e := range encode(f, exprs).exprs {
			f.Add(e.name, e.data, userdata.AppendString(nil, userdata.TypeComment, exceptionComment))
		}
	}
	f.Add("match", []byte{12, 0, 1, 0, 'c', 'o', 'm', 'm', 'e', 'n', 't', 0, 5, 0, 3, 0, 'x', 0, 0, 0}, []byte(nil))
	f.Fuzz(func(t *testing.T, name string, data, comment []byte) {
		r := rule{userdata: comment, exprs: []expression{{name, data}, {name, data}}}
		r.comment()
		r.returnsAll()
		r.refusesAll()
		r.dropsTo(nftables.TableFamilyIPv4, four.Subnet)
		want := slices.Concat(fromNetwork(expr.CmpOpEq, four.Network), decide(expr.VerdictAccept))
		for _, e := range want {
			_ = r.is(nftables.TableFamilyIPv4, []expr.Any{e, e})
		}
	})
}

func FuzzConcerns(f *testing.F) {
	f.Add(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE), []byte{2, 0, 0, 0, 11, 0, 1, 0, 'f', 'i', 'l', 't', 'e', 'r', 0, 0})
	f.Add(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWCHAIN), []byte{2, 0, 0, 0, 12, 0, 4, 0, 8, 0, 1, 0, 0, 0, 0, 2})
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		concerns(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: data})
	})
}
