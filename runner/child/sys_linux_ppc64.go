package child

const (
	sysSeccomp    = 358
	cloneFlagsArg = 0 // of clone(2)
)
