package network

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is our table of nftables. Other rules get another name.
const tableName = "bk"

// packetRules makes the table, unless it is there. It is one transaction: of
// two processes one makes it, whole. The table stays; it concerns no interface
// but those of steps.
func packetRules() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if err := admit(c, chains); err != nil {
		return err
	}
	if slices.ContainsFunc(chains, func(ch *nftables.Chain) bool { return ch.Table.Name == tableName }) {
		return nil
	}
	c.CreateTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	addRules(c, &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("nftables: make table %s: %w", tableName, err)
	}
	return nil
}

// addRules lets steps out, behind the machine's address, and nothing but answers
// in; from one step to another goes nothing.
func addRules(c *nftables.Conn, t *nftables.Table) {
	accept := nftables.ChainPolicyAccept
	forward := c.AddChain(&nftables.Chain{
		Name: "forward", Table: t, Type: nftables.ChainTypeFilter, Policy: &accept,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	out := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT, Policy: &accept,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	from, to := ours(expr.MetaKeyIIFNAME), ours(expr.MetaKeyOIFNAME)
	for _, r := range []struct {
		chain *nftables.Chain
		exprs [][]expr.Any
	}{
		{forward, [][]expr.Any{from, to, verdict(expr.VerdictDrop)}},
		{forward, [][]expr.Any{to, answers(), verdict(expr.VerdictAccept)}},
		{forward, [][]expr.Any{to, verdict(expr.VerdictDrop)}},
		{out, [][]expr.Any{from, {&expr.Masq{}}}},
	} {
		c.AddRule(&nftables.Rule{Table: t, Chain: r.chain, Exprs: slices.Concat(r.exprs...)})
	}
}

// dockerChain is where Docker leaves room for rules before its own.
const dockerChain = "DOCKER-USER"

// admit makes way through a firewall that forwards nothing by default: in
// Docker's this is foreseen; others are not ours to open.
func admit(c *nftables.Conn, chains []*nftables.Chain) error {
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		i := slices.IndexFunc(chains, func(u *nftables.Chain) bool { return u.Name == dockerChain && u.Table.Name == ch.Table.Name })
		if i < 0 {
			return fmt.Errorf("the firewall forwards nothing: chain %s of nftables' table ip %s has policy drop", ch.Name, ch.Table.Name)
		}
		if err := admitDocker(c, chains[i]); err != nil {
			return fmt.Errorf("nftables: add to chain %s: %w", dockerChain, err)
		}
	}
	return nil
}

// admitDocker accepts what steps send and get; our own table still drops what
// is no answer.
func admitDocker(c *nftables.Conn, chain *nftables.Chain) error {
	mark := []byte(tableName)
	rules, err := c.GetRules(chain.Table, chain)
	if err != nil {
		return err
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			if cmp, ok := e.(*expr.Cmp); ok && string(cmp.Data) == prefix {
				return nil
			}
		}
	}
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		c.InsertRule(&nftables.Rule{
			Table: chain.Table, Chain: chain, UserData: mark,
			Exprs: slices.Concat(ours(key), []expr.Any{&expr.Counter{}}, verdict(expr.VerdictAccept)),
		})
	}
	return c.Flush()
}

// ours matches packets of our interfaces.
func ours(key expr.MetaKey) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(prefix)},
	}
}

// answers matches packets of connections that were let through.
func answers() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4, Xor: make([]byte, 4),
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }
