package child

const (
	sysSeccomp    = 348
	cloneFlagsArg = 1 // of clone(2)
)
