package images

import "embed"

// The code that every image is made with, so that it is part of every image's name in the cache; and that of single images.
var (
	//go:embed images.go layout.go layer.go base.go
	sources embed.FS
	//go:embed images.go layout.go layer.go base.go goroot.go
	gorootSources embed.FS
	//go:embed images.go layout.go layer.go base.go odd.go tree.go
	oddSources embed.FS
	//go:embed images.go layout.go layer.go base.go debianbase.go upper.go tree.go
	debianBaseSources embed.FS
	//go:embed images.go layout.go layer.go base.go debian.go debianbase.go upper.go tree.go
	debianSources embed.FS
	//go:embed images.go layout.go layer.go base.go synthetic.go tree.go
	syntheticSources embed.FS
	//go:embed images.go layout.go layer.go base.go weights.go
	weightsSources embed.FS
	//go:embed images.go layout.go layer.go base.go posix.go odd.go tree.go
	posixSources embed.FS
	//go:embed images.go layout.go layer.go base.go posix.go extreme.go tree.go
	extremeSources embed.FS
	//go:embed images.go layout.go layer.go base.go posix.go huge.go
	hugeSources embed.FS
	//go:embed images.go layout.go layer.go base.go manyfiles.go
	manyFilesSources embed.FS
)
