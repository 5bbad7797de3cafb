package store

import (
	"context"
	"log/slog"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger passes the engine's warnings and errors on to log; its information is noise to an operator.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(&bridge{log: log.With("part", "store engine")})
}

// bridge is a zapcore.Core over slog.
type bridge struct{ log *slog.Logger }

func (b *bridge) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log.With(pairs(fields)...)}
}

// expected are warnings about ports and tokens that this store does not have.
func expected(message string) bool {
	return strings.HasPrefix(message, "Running http and grpc server on single port") || strings.HasPrefix(message, "simple token is not")
}

func (b *bridge) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(entry.Level) && !expected(entry.Message) {
		return checked.AddCore(entry, b)
	}
	return checked
}

func (b *bridge) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if entry.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	b.log.Log(context.Background(), level, entry.Message, pairs(fields)...)
	return nil
}

func (b *bridge) Sync() error { return nil }

func pairs(fields []zapcore.Field) []any {
	encoder := zapcore.NewMapObjectEncoder()
	for _, field := range fields {
		field.AddTo(encoder)
	}
	out := make([]any, 0, 2*len(encoder.Fields))
	for key, value := range encoder.Fields {
		out = append(out, key, value)
	}
	return out
}
