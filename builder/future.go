package builder

import "sync"

// future is a value that is computed once, by whoever asks first; the others
// wait for it. The zero value is ready.
type future[T any] struct {
	once sync.Once
	val  T
	err  error
}

func (f *future[T]) do(compute func() (T, error)) (T, error) {
	f.once.Do(func() { f.val, f.err = compute() })
	return f.val, f.err
}

// futures are futures by name.
type futures[T any] struct {
	mu sync.Mutex
	m  map[string]*future[T]
}

func (f *futures[T]) do(name string, compute func() (T, error)) (T, error) {
	f.mu.Lock()
	if f.m == nil {
		f.m = map[string]*future[T]{}
	}
	fu := f.m[name]
	if fu == nil {
		fu = &future[T]{}
		f.m[name] = fu
	}
	f.mu.Unlock()
	return fu.do(compute)
}
