// Command shop is one of three.
package main

import "github.com/me/store/serve"

func main() { serve.Text(`Everything for the garden`) }
