package trace

// oldCalls are those that newer architectures don't have.
func oldCalls() map[int]handler { return nil }
