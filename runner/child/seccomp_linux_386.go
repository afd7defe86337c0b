package child

const sysSeccomp = 354
