package login

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeyring plays an issuer that rotates its keys, and goes away.
func TestKeyring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := 0
		set, away := keySetOf("a"), errors.New("away")
		reachable := true
		r := &keyring{
			timeout: time.Second, fresh: 10 * time.Minute, stale: time.Hour, again: 10 * time.Second,
			read: func(context.Context) ([]byte, error) {
				if read++; !reachable {
					return nil, away
				}
				return set, nil
			},
		}
		later := func(d time.Duration) { <-time.After(d) }
		find := func(id string, want, wantRead int, wantErr error) {
			t.Helper()
			keys, err := r.find(t.Context(), id)
			if len(keys) != want || !errors.Is(err, wantErr) || read != wantRead {
				t.Errorf("%q: got %d keys, %v after %d readings; want %d, %v after %d", id, len(keys), err, read, want, wantErr, wantRead)
			}
		}
		find("a", 1, 1, nil)
		find("b", 0, 1, nil) // not again so soon
		later(10 * time.Second)
		find("a", 1, 1, nil)
		find("b", 0, 2, nil)
		find("c", 0, 2, nil)
		set = keySetOf("b")
		later(10 * time.Second)
		find("b", 1, 3, nil)
		find("a", 0, 3, nil) // taken back
		reachable = false
		later(10 * time.Minute)
		find("b", 1, 4, nil)
		find("b", 1, 4, nil)
		find("c", 0, 4, away) // it may be a new one
		later(50 * time.Minute)
		find("b", 0, 5, away)
		reachable = true
		find("b", 0, 5, away)
	})
}

func keySetOf(id string) []byte {
	return []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"` + id + `","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
}

// Those who come while keys are read wait for them, each as long as it wants to.
func TestKeyringWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		r := &keyring{
			timeout: time.Minute, fresh: time.Hour, stale: time.Hour, again: time.Second,
			read: func(context.Context) ([]byte, error) { <-answer; return keySetOf("a"), nil },
		}
		first := make(chan int)
		go func() {
			gone, cancel := context.WithCancel(t.Context())
			cancel() // who reads for others does not stop when its own client has gone
			keys, _ := r.find(gone, "a")
			first <- len(keys)
		}()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.find(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(answer)
		if n := <-first; n != 1 {
			t.Errorf("got %d keys, want 1", n)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add(keySetOf("a"))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"RS256","key_ops":["verify"]},{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeys(data)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys, %v", len(keys), err)
		}
		for _, k := range keys {
			if k.public == nil || len(k.algorithms) == 0 {
				t.Errorf("a key that is good for nothing: %+v", k)
			}
		}
	})
}
