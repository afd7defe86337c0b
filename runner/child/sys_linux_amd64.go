package child

const (
	sysSeccomp    = 317
	cloneFlagsArg = 0 // of clone(2)
)
