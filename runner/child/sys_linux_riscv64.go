package child

const (
	sysSeccomp      = 277
	sysSetns        = 268
	sysSendmsg      = 211
	sysSchedSetattr = 274
	cloneFlagsArg   = 0 // of clone(2)
)
