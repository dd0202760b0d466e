package storetest

import "syscall"

// attributes makes a process run as somebody, and die with the thread that starts it.
func attributes(who *identity) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if who != nil {
		a.Credential = &syscall.Credential{Uid: who.uid, Gid: who.gid}
	}
	return a
}
