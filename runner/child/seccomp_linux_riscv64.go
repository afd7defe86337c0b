package child

const sysSeccomp = 277
