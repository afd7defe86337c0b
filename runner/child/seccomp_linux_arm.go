package child

const sysSeccomp = 383
