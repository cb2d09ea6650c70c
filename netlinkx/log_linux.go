package netlinkx

import "time"

func (y *tally) any() bool {
	return y.repaired+y.takenOver+y.nRefused+y.nConflicts > 0
}

// announce logs what the first pass has come to.
func (r *run) announce() {
	t := r.table
	var installed, conflicts, failed int
	for _, w := range t.wanted {
		switch w.state {
		case RouteInstalled:
			installed++
		case RouteConflict:
			conflicts++
		default:
			failed++
		}
	}
	y := &t.tally
	r.log.Info("routes in place", "uplink", t.uplink.Name, "wanted", len(t.wanted), "installed", installed,
		"added", y.added, "replaced", y.replaced, "removed", y.removed, "in conflict", conflicts, "failed", failed)
	r.quiet = time.Time{}
	y.repaired = 0
}

// summarize logs what has happened since it last did, at most once a second.
func (r *run) summarize(now time.Time) {
	y := &r.table.tally
	if !y.any() {
		y.added, y.replaced, y.removed = 0, 0, 0
		return
	}
	if now.Before(r.quiet) {
		return
	}
	r.quiet = now.Add(logPause)
	if y.takenOver > 0 {
		r.log.Info("took over routes that flanneld left", "routes", y.takenOver)
	}
	if y.repaired > 0 {
		r.log.Info("put routes back that something had changed", "routes", y.repaired)
	}
	if y.nRefused > 0 {
		r.log.Warn("routes cannot be in place", "routes", y.nRefused, "first", y.refused[0])
	}
	if y.nConflicts > 0 {
		r.log.Warn("routes that are not ours are in the way", "routes", y.nConflicts, "first", y.conflicts[0])
	}
	*y = tally{}
}
