package child

const sysSeccomp = 358
