package child

const (
	sysSeccomp    = 383
	cloneFlagsArg = 0 // of clone(2)
)
