package store

import (
	"errors"

	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
)

// gathering is another VFS whose write-ahead logs are written in few large
// pieces. SQLite writes each page and the 24 bytes before it by themselves: some
// 25 system calls for a small commit, which took as long as its sync.
type gathering struct{ vfs.VFS }

// OpenFilename opens a file of the other VFS.
func (g gathering) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, flags, err := vfsutil.WrapOpenFilename(g.VFS, name, flags)
	if err == nil && flags&vfs.OPEN_WAL != 0 {
		f = &gatheredLog{File: f}
	}
	return f, flags, err
}

// gatherMost is how many bytes wait at most.
const gatherMost = 1 << 20

// gatheredLog holds back what follows on what was written, until it must be
// there: until it is synced, read or measured. Nobody misses it before: other
// connections read a frame once the index in shared memory has it, and SQLite
// puts it there after the sync of the commit it belongs to (synchronous=FULL).
type gatheredLog struct {
	vfs.File
	at      int64 // where waiting belongs
	waiting []byte
}

// flush writes what waits. After an error the writer's transaction fails, and
// the next begins over the same place.
func (f *gatheredLog) flush() error {
	if len(f.waiting) == 0 {
		return nil
	}
	_, err := f.File.WriteAt(f.waiting, f.at)
	f.waiting = f.waiting[:0]
	return err
}

// WriteAt takes p in.
func (f *gatheredLog) WriteAt(p []byte, at int64) (int, error) {
	if at != f.at+int64(len(f.waiting)) || len(f.waiting)+len(p) > gatherMost {
		if err := f.flush(); err != nil {
			return 0, err
		}
	}
	if len(f.waiting) == 0 {
		f.at = at
	}
	f.waiting = append(f.waiting, p...)
	return len(p), nil
}

// ReadAt reads, after what waits is there.
func (f *gatheredLog) ReadAt(p []byte, at int64) (int, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, at)
}

// Truncate cuts, after what waits is there.
func (f *gatheredLog) Truncate(size int64) error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

// Sync makes everything written durable.
func (f *gatheredLog) Sync(flags vfs.SyncFlag) error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.File.Sync(flags)
}

// Size is the length, with what waits.
func (f *gatheredLog) Size() (int64, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	return f.File.Size()
}

// Close writes what waits and closes.
func (f *gatheredLog) Close() error { return errors.Join(f.flush(), f.File.Close()) }

const gatherName = "mayfly"

func registerGather() {
	if vfs.Find(gatherName) == nil {
		vfs.Register(gatherName, gathering{vfs.Find("os")})
	}
}
