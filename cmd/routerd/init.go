package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// forwarded are the signals that the first process hands on. SIGURG is the Go runtime's own.
var forwarded = []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// asFirst is what routerd does where it is the first process, as in a container with no init: processes whose parent has
// ended are its children then, HAProxy's workers among them, and somebody has to wait for them, else they stay as zombies. That
// cannot be the one that waits for children of its own. So the first process does nothing else, and runs routerd as
// its child; it returns the child's exit status. With it all others end.
func asFirst() (int, error) {
	signals := make(chan os.Signal, 32)
	signal.Notify(signals, append(forwarded, syscall.SIGCHLD)...)
	program, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find this program: %w", err)
	}
	child, err := os.StartProcess(program, os.Args, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setpgid: true}, // a terminal's signals come from here, and only once
	})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", program, err)
	}
	for s := range signals {
		if s != syscall.SIGCHLD {
			_ = child.Signal(s) // one that has ended is waited for next
			continue
		}
		for { // one signal may stand for several processes
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			switch {
			case pid != child.Pid:
			case status.Signaled():
				return 128 + int(status.Signal()), nil // as shells say it
			default:
				return status.ExitStatus(), nil
			}
		}
	}
	return 0, nil // nobody closes the channel
}
