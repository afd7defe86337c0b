package child

const (
	sysSeccomp      = 358
	sysSetns        = 350
	sysSendmsg      = 341
	sysSchedSetattr = 355
	cloneFlagsArg   = 0 // of clone(2)
)
