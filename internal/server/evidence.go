package server

import "github.com/mayfly-id/mayfly/internal/authority"

// How long caches may keep what the log publishes (C2SP tlog-tiles). A full tile
// never changes; a partial one is replaced by a fuller; the checkpoint moves
// every second.
const (
	cacheForever = "public, max-age=31536000, immutable"
	cachePartial = "public, max-age=60"
	cacheMoving  = "public, max-age=1"
)

// checkpoint answers with the signed tree head (C2SP tlog-checkpoint).
func checkpoint(c *call) error {
	note, err := c.s.a.Log().Checkpoint(c.ctx())
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", cacheMoving)
	c.writeBytes(c.route.status, typeText, note)
	return nil
}

// anchor answers with the newest checkpoint that witnesses have cosigned (C2SP
// tlog-cosignature).
func anchor(c *call) error {
	note, err := c.s.a.Log().Anchor(c.ctx())
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", cacheMoving)
	c.writeBytes(c.route.status, typeText, note)
	return nil
}

// logKey answers with the key that verifies checkpoints, one line.
func logKey(c *call) error {
	c.w.Header().Set("Cache-Control", publicMaxAge)
	c.writeBytes(c.route.status, typeText, []byte(c.s.a.Log().VKey()+"\n"))
	return nil
}

// tile answers with a tile of hashes, which say nothing of what was hashed.
func tile(c *call) error {
	data, whole, err := c.s.a.Log().Tile(c.ctx(), c.values["path"])
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", cachePartial)
	if whole {
		c.w.Header().Set("Cache-Control", cacheForever)
	}
	c.writeBytes(c.route.status, typeBytes, data)
	return nil
}

// entries answers with a bundle of leaves, to those who may read the log. It is
// for no cache.
func entries(c *call) error {
	if err := c.s.a.MayReadLog(c.ctx(), c.presented()); err != nil {
		return err
	}
	data, _, err := c.s.a.Log().Tile(c.ctx(), "entries/"+c.values["path"])
	if err != nil {
		return err
	}
	c.writeBytes(c.route.status, typeBytes, data)
	return nil
}

// certificate answers with the signed account of how a task ended.
func certificate(c *call) error {
	text, err := c.s.a.Certificate(c.ctx(), c.presented(), c.values["id"])
	if err != nil {
		return err
	}
	c.writeBytes(c.route.status, typeJWT, []byte(text))
	return nil
}

func (c *call) status() (authority.StatusView, error) {
	return c.s.a.Status(c.ctx(), c.presented())
}

func (c *call) rules() (authority.RulesView, error) {
	return c.s.a.Rules(c.ctx(), c.presented())
}
