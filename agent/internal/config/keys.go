package config

import (
	"maps"
	"slices"
	"strings"
)

func allOf[T any](known map[string]T) string {
	return strings.Join(slices.Sorted(maps.Keys(known)), ", ")
}

func anyOf[T any](known map[string]T) string {
	return slices.Min(slices.Collect(maps.Keys(known)))
}
