package systemdtest

// base is the least that a user manager needs to start, to take units with
// default dependencies, and to exit when told. The units of the machine's own
// user managers are left out: they would start what no test asked for.
var base = map[string]string{
	"default.target":  "[Unit]\nDescription=Default\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
	"basic.target":    "[Unit]\nDescription=Basic\n",
	"sockets.target":  "[Unit]\nDescription=Sockets\n",
	"timers.target":   "[Unit]\nDescription=Timers\n",
	"paths.target":    "[Unit]\nDescription=Paths\n",
	"shutdown.target": "[Unit]\nDescription=Shutdown\nDefaultDependencies=no\nRefuseManualStart=yes\n",
	"exit.target": "[Unit]\nDescription=Exit\nDefaultDependencies=no\n" +
		"Requires=exit.service\nAfter=exit.service\nAllowIsolate=yes\n",
	// It runs nothing; that it is over is what ends the manager.
	"exit.service": "[Unit]\nDescription=Exit\nDefaultDependencies=no\n" +
		"Requires=shutdown.target\nAfter=shutdown.target\nSuccessAction=exit-force\n[Service]\nSlice=-.slice\n",
}
