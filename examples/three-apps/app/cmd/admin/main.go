// Command admin is one of three.
package main

import "github.com/me/store/serve"

func main() { serve.Text(`Staff only`) }
