package child

const (
	sysSeccomp      = 354
	sysSetns        = 346
	sysSendmsg      = 370
	sysSchedSetattr = 351
	cloneFlagsArg   = 0 // of clone(2)
)
