package child

const (
	sysSeccomp      = 348
	sysSetns        = 339
	sysSendmsg      = 370
	sysSchedSetattr = 345
	cloneFlagsArg   = 1 // of clone(2)
)
