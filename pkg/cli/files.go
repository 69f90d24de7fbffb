package cli

// Files are the record files of a command that reads a stream.
type Files struct {
	Files []string `arg:"" optional:"" name:"file" help:"Files of records; - or none is stdin."`
}
