package main

import (
	"context"
	"log/slog"
	"time"

	service "github.com/coreos/go-systemd/v22/daemon"
)

// notifyService returns how to tell the service manager of a state. Without one
// it tells nobody.
func notifyService(log *slog.Logger) func(string) {
	return func(state string) {
		if _, err := service.SdNotify(false, state); err != nil {
			log.Debug("the service manager cannot be told", "err", err)
		}
	}
}

// watchdog tells the service manager that the daemon lives, if it asked for it,
// for as long as the Manager answers.
func (d *daemon) watchdog(ctx context.Context) error {
	interval, err := service.SdWatchdogEnabled(false)
	if err != nil {
		return classed{errUsage, err}
	}
	if interval == 0 {
		return nil
	}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.managerSummary() // does not return if the Manager hangs
			d.notify(service.SdNotifyWatchdog)
		}
	}
}
