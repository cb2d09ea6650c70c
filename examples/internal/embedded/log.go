package embedded

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// levels passes etcd's log on to slog. What etcd calls information is of use
// only to who debugs it. So is what it warns of while it starts (how it was
// configured, which here is on purpose; why it failed, which Start returns) and
// while it stops (that its listeners were closed).
type levels struct {
	zapcore.LevelEnabler
	log     *slog.Logger
	serving *atomic.Bool
	fields  []zapcore.Field
}

func newLevels(log *slog.Logger) *levels {
	return &levels{LevelEnabler: zapcore.DebugLevel, log: log.With("part", "etcd"), serving: new(atomic.Bool)}
}

func (l *levels) zap() *zap.Logger { return zap.New(l) }

func (l *levels) level(z zapcore.Level) slog.Level {
	switch {
	case z > zapcore.ErrorLevel: // ends the process, whenever that is
		return slog.LevelError
	case !l.serving.Load():
		return slog.LevelDebug
	case z == zapcore.ErrorLevel:
		return slog.LevelError
	case z == zapcore.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (l *levels) With(fields []zapcore.Field) zapcore.Core {
	c := *l
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return &c
}

func (l *levels) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.log.Enabled(context.Background(), l.level(e.Level)) {
		return ce.AddCore(e, l)
	}
	return ce
}

func (l *levels) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	args := make([]any, 0, 2*(len(l.fields)+len(fields)))
	for _, list := range [][]zapcore.Field{l.fields, fields} {
		for _, f := range list {
			f.AddTo(enc)
			args = append(args, f.Key, enc.Fields[f.Key])
		}
	}
	l.log.Log(context.Background(), l.level(e.Level), e.Message, args...)
	return nil
}

func (l *levels) Sync() error { return nil }
