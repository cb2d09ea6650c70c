package filter

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// events is a socket on which the kernel tells of every change of a rule.
type events struct{ conn *netlink.Conn }

func listen() (*events, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen to nftables: %w", err)
	}
	// A whole ruleset that is reloaded at once should fit. It is a wish: what does
	// not fit is noticed.
	_ = conn.SetReadBuffer(1 << 20)
	return &events{conn}, nil
}

func (e *events) close() { e.conn.Close() }

// watch calls changed after changes that may concern us, until ctx ends; it
// returns nil then.
func (e *events) watch(ctx context.Context, changed func()) error {
	stop := context.AfterFunc(ctx, func() { _ = e.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		messages, err := e.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed() // events were lost
		case err != nil:
			return fmt.Errorf("listen to nftables: %w", err)
		case slices.ContainsFunc(messages, concerns):
			changed()
		}
	}
}

// concerns reports whether the message may tell of a change of our table, or of
// the chains of others that decide about forwarded packets. The rest of what
// happens on a busy host, most of it kube-proxy's or Docker's, is not worth a
// look.
func concerns(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
		return false
	}
	family := nftables.TableFamily(m.Data[0])
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return true
	}
	ad.ByteOrder = binary.BigEndian
	var table, chain string
	var base bool
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		return true
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		c := decodeChain(family, ad)
		table, chain, base = c.table, c.name, c.base
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_RULE_TABLE:
				table = ad.String()
			case unix.NFTA_RULE_CHAIN:
				chain = ad.String()
			}
		}
	default:
		return false
	}
	if ad.Err() != nil || base {
		return true
	}
	switch family {
	case tableFamily:
		return table == tableName
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6:
		return table == iptablesFilter && (chain == forwardChain || chain == dockerUser) ||
			table == iptablesRaw && chain == preroutingRaw
	}
	return false
}
