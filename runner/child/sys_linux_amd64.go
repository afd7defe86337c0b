package child

const (
	sysSeccomp      = 317
	sysSetns        = 308
	sysSendmsg      = 46
	sysSchedSetattr = 314
	cloneFlagsArg   = 0 // of clone(2)
)
