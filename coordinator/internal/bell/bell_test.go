package bell

import (
	"testing"
	"testing/synctest"
)

func TestRingWakesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New()
		b.Ring() // before anyone waits: nobody is woken by it
		first, second := b.Wait(), b.Wait()
		woken := make(chan struct{}, 2)
		for _, ch := range []<-chan struct{}{first, second} {
			go func() { <-ch; woken <- struct{}{} }()
		}
		synctest.Wait()
		if len(woken) != 0 {
			t.Fatal("woken by an earlier ring")
		}
		b.Ring()
		synctest.Wait()
		if len(woken) != 2 {
			t.Errorf("%d of 2 were woken", len(woken))
		}
		select {
		case <-b.Wait():
			t.Error("the next ring is heard already")
		default:
		}
	})
}
