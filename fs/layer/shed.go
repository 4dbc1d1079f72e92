package layer

// Shed is that of the layer's store, for who may meet the layer's end: of a layer that is closed nothing is taken.
func (l *Layer) Shed(want int64) (freed int64, err error) {
	if l.begin() != nil {
		return 0, nil //nolint:nilerror // as it says
	}
	defer l.alive.RUnlock()
	return l.store.Shed(want)
}
