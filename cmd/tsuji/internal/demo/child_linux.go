package demo

import "syscall"

// childAttributes keeps a terminal's Ctrl-C from the children, which the demo ends in order, and ends them
// even if the demo is killed. (The signal comes when the thread that started the child ends. Go ends
// threads only that a goroutine was locked to, and none is here.)
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
