package child

const sysSeccomp = 317
