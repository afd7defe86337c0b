package child

const (
	sysSeccomp    = 354
	cloneFlagsArg = 0 // of clone(2)
)
