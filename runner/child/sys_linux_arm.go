package child

const (
	sysSeccomp      = 383
	sysSetns        = 375
	sysSendmsg      = 296
	sysSchedSetattr = 380
	cloneFlagsArg   = 0 // of clone(2)
)
