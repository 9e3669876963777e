package health

// VersionOf is fuzzed.
var VersionOf = versionOf
