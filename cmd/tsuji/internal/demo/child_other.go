//go:build !linux

package demo

import "syscall"

// childAttributes keeps a terminal's Ctrl-C from the children, which the demo ends in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
