package disk

import "testing"

func TestExtendState(t *testing.T) {
	const size = 1 << 30
	layout := Layout{ESP: 1 << 20, Slot: 1 << 20, Verity: 1 << 20}
	table := func() *Table {
		t.Helper()
		table, err := layout.Table(size, 512, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	for name, test := range map[string]struct {
		change func(*Table)
		disk   int64
		grows  bool
	}{
		"same disk":          {func(*Table) {}, size, false},
		"a little larger":    {func(*Table) {}, size + 4096, false},
		"larger":             {func(*Table) {}, 3 * size, true},
		"smaller":            {func(*Table) {}, size / 2, false},
		"no state partition": {func(t *Table) { t.Partitions = t.Partitions[:6] }, 2 * size, false},
		"state is not last": {func(t *Table) {
			t.Partitions = append(t.Partitions, Partition{Number: 8, Name: "more", Offset: size, Size: 1 << 20})
		}, 2 * size, false},
	} {
		t.Run(name, func(t *testing.T) {
			table := table()
			test.change(table)
			before, _ := table.Find(State)
			if got := table.ExtendState(test.disk); got != test.grows {
				t.Fatalf("grows: %v", got)
			}
			after, _ := table.Find(State)
			if test.grows {
				fresh, err := layout.Table(test.disk, 512, []byte("x"))
				if err != nil {
					t.Fatal(err)
				}
				if want, _ := fresh.Find(State); after != want {
					t.Errorf("got %+v, a fresh layout has %+v", after, want)
				}
				if table.ExtendState(test.disk) {
					t.Error("grows again")
				}
			} else if after != before {
				t.Errorf("changed to %+v", after)
			}
		})
	}
}
