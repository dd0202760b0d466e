package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imlb/balancer"
)

func ExampleBalancer() {
	b := balancer.New(balancer.Options{})
	b.SetMembers([]balancer.Member{{Name: "node-1", Weight: 1}, {Name: "node-2", Weight: 1}, {Name: "node-3", Weight: 2}})
	phone, err := b.Acquire("alice@example.com", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer phone.Release()
	fmt.Println(phone.Node(), phone.Cause())
	laptop, err := b.Acquire("alice@example.com", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer laptop.Release()
	fmt.Println(laptop.Node(), laptop.Cause())
	// Output:
	// node-2 owned
	// node-2 joined
}

// A caller that cannot reach a node asks again and says which it has tried.
func ExampleBalancer_Acquire() {
	b := balancer.New(balancer.Options{})
	b.SetMembers([]balancer.Member{{Name: "node-1", Weight: 1}, {Name: "node-2", Weight: 1}})
	dial := func(node string) error {
		if node == "node-2" {
			return errors.New("refused")
		}
		return nil
	}
	var tried []string
	for {
		lease, err := b.Acquire("alice@example.com", func(node string) bool { return slices.Contains(tried, node) })
		if err != nil {
			fmt.Println(err)
			return
		}
		if err := dial(lease.Node()); err != nil {
			tried = append(tried, lease.Node())
			lease.Release()
			continue
		}
		fmt.Println("alice is on", lease.Node(), "after", strings.Join(tried, ", "), "failed")
		lease.Release()
		return
	}
	// Output: alice is on node-1 after node-2 failed
}

// A session for which there is no room waits for it.
func ExampleBalancer_AcquireWait() {
	b := balancer.New(balancer.Options{})
	b.SetMembers([]balancer.Member{{Name: "node-1", Weight: 1, Limit: 1}})
	alice, err := b.AcquireWait(context.Background(), "alice@example.com", nil)
	if err != nil {
		fmt.Println(err)
		return
	}

	hurried, cancel := context.WithTimeout(context.Background(), 0)
	defer cancel()
	_, err = b.AcquireWait(hurried, "bob@example.com", nil)
	fmt.Println(err)
	var refusal *balancer.Refusal
	fmt.Println(errors.As(err, &refusal) && refusal.Lack == balancer.AllFull, errors.Is(err, context.DeadlineExceeded))

	alice.Release()
	bob, err := b.AcquireWait(context.Background(), "bob@example.com", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("bob is on", bob.Node())
	// Output:
	// no node can take the session: all-full, park-deadline
	// true true
	// bob is on node-1
}

// Two fronts that tell each other where users are who are not at home.
func ExampleBalancer_Import() {
	members := []balancer.Member{{Name: "node-1", Weight: 1}, {Name: "node-2", Weight: 1}}
	one, other := balancer.New(balancer.Options{}), balancer.New(balancer.Options{})
	one.SetMembers(members)
	other.SetMembers(members)

	phone, err := one.Acquire("alice@example.com", func(node string) bool { return node == "node-2" })
	if err != nil {
		fmt.Println(err)
		return
	}
	defer phone.Release()
	other.Import("front one", one.Exceptions())
	laptop, err := other.Acquire("alice@example.com", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer laptop.Release()
	fmt.Println(phone.Node(), phone.Cause())
	fmt.Println(laptop.Node(), laptop.Cause())
	// Output:
	// node-1 retried
	// node-1 shared
}

func ExampleBalancer_Explain() {
	b := balancer.New(balancer.Options{})
	b.SetMembers([]balancer.Member{{Name: "node-1", Weight: 1}, {Name: "node-2", Weight: 1, Limit: 10}, {Name: "node-3", Weight: 1, Draining: true}})
	b.SetExternal(map[string]int{"node-2": 10})
	e := b.Explain("alice@example.com")
	fmt.Println(e.Node, e.Cause)
	for _, c := range e.Candidates {
		fmt.Println(c.Name, c.Verdict)
	}
	// Output:
	// node-1 overflowed
	// node-2 full
	// node-1 takes
	// node-3 draining
}

func ExampleTable() {
	table := balancer.BuildTable([]balancer.Member{{Name: "node-1", Weight: 1}, {Name: "node-2", Weight: 3}}, balancer.DefaultEpsilon)
	fmt.Println(table.Lookup("alice@example.com"))
	fmt.Println(slices.Collect(table.Ranked(balancer.Partition("alice@example.com"))))
	fmt.Println(table.Owned()["node-2"]*100/balancer.Partitions, "% of the users")
	// Output:
	// node-2
	// [node-2 node-1]
	// 75 % of the users
}

// A node drains: its sessions move to the others at ten a second, with at most two
// under way to a node.
func ExamplePlan() {
	old := []balancer.Member{{Name: "node-1", Weight: 1}, {Name: "node-2", Weight: 1}, {Name: "node-3", Weight: 1}}
	members := slices.Clone(old)
	members[0].Draining = true
	sessions := slices.Values([]balancer.Session{
		{ID: "phone", User: "alice@example.com", Node: "node-1"},
		{ID: "laptop", User: "alice@example.com", Node: "node-1"},
		{ID: "tablet", User: "carol@example.com", Node: "node-1"},
		{ID: "desk", User: "bob@example.com", Node: "node-3"},
	})
	plan := balancer.Plan(old, members, sessions, balancer.PlanOptions{})
	pacer := balancer.NewPacer(plan.Moves, balancer.Pace{PerSecond: 10, PerTarget: 2})
	for now := int64(0); pacer.Left() > 0; {
		move, wait, ok := pacer.Next(now)
		if !ok {
			now += wait // a caller would wait, here time is made up
			continue
		}
		fmt.Println(now/1e6, "ms:", move.User, move.ID, "to", move.To)
		pacer.Done(move)
	}
	// Output:
	// 0 ms: carol@example.com tablet to node-3
	// 100 ms: alice@example.com laptop to node-2
	// 200 ms: alice@example.com phone to node-2
}
