package child

const (
	sysSeccomp    = 277
	cloneFlagsArg = 0 // of clone(2)
)
