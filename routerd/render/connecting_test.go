package render

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	tsujiv1 "github.com/tsuji-dev/tsuji/proto/tsuji/v1"
)

// All tries to connect together take what the Settings say, from four tries up; none takes more than two seconds, and none less
// than one if there is so much.
func TestConnecting(t *testing.T) {
	t.Parallel()
	for all, want := range map[time.Duration]string{
		0:                      "1.25s 3", // the default
		100 * time.Millisecond: "100ms 3", 2 * time.Second: "1s 3", 4 * time.Second: "1s 3", 6 * time.Second: "1.5s 3", 8 * time.Second: "2s 3",
		9 * time.Second: "2s 4", 20 * time.Second: "2s 9", time.Minute: "2s 29", 24 * time.Hour: "2s 99",
	} {
		s := &tsujiv1.Timeouts{}
		if all > 0 {
			s.Connect = durationpb.New(all)
		}
		one, retries, err := connecting(s)
		if got := fmt.Sprint(one, retries); got != want || err != nil {
			t.Errorf("%v: %s, %v; want %s", all, got, err, want)
		}
	}
	if _, _, err := connecting(&tsujiv1.Timeouts{Connect: durationpb.New(-1)}); err == nil {
		t.Error("a negative time is accepted")
	}
}
