package child

const sysSeccomp = 348
