package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"imlb/proxy"
)

// maxSessions is how many sessions one answer tells of at most.
const maxSessions = 1000

// sessionsPage is what /sessions answers.
type sessionsPage struct {
	Sessions []proxy.SessionInfo `json:"sessions"`
	Next     string              `json:"next,omitempty"` // what after has to be for more; "" if there are none
}

// sessions tells of sessions that are on nodes.
func (f *front) sessions(w http.ResponseWriter, r *http.Request) {
	q, err := sessionQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	page := sessionsPage{Sessions: []proxy.SessionInfo{}}
	found, more := f.server.Sessions(q)
	page.Sessions = append(page.Sessions, found...)
	if more {
		page.Next = found[len(found)-1].ID
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(page) // the asker may have gone
}

// sessionQuery reads what is asked for: user, node, pool, after and limit.
func sessionQuery(values url.Values) (q proxy.SessionQuery, err error) {
	q.Limit = 100
	for key, list := range values {
		value := list[0]
		switch {
		case len(list) > 1 || value == "":
			err = fmt.Errorf("%s: want one value", key)
		case key == "user":
			q.User = value
		case key == "node":
			q.Node = value
		case key == "pool":
			q.Pool = value
		case key == "after":
			q.After, err = proxy.ParseID(value)
		case key == "limit":
			if q.Limit, err = strconv.Atoi(value); err != nil || q.Limit < 1 || q.Limit > maxSessions {
				err = fmt.Errorf("limit %s: want a number from 1 to %d", value, maxSessions)
			}
		default:
			err = fmt.Errorf("%s is not known here: sessions are asked for by user, node and pool, and paged by limit and after", key)
		}
		if err != nil {
			return q, err
		}
	}
	return q, nil
}

// endSession ends one of them.
func (f *front) endSession(w http.ResponseWriter, r *http.Request) {
	id, err := proxy.ParseID(r.PathValue("id"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !f.server.EndSession(id) {
		http.Error(w, "there is no such session, or it has ended", http.StatusNotFound)
		return
	}
	f.log.InfoContext(r.Context(), "an administrator ends a session", slog.String("id", id.String()), slog.String("from", r.RemoteAddr))
	w.WriteHeader(http.StatusAccepted)
}

// onThisMachine answers only who asks from the machine that the front runs on. The admin interface may be open to those
// who gather metrics, and who has a session, and its end, is not for all of them.
func onThisMachine(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !isOfThisMachine(r) || !isNamedLocally(r) {
			http.Error(w, "sessions are shown and ended only on the machine that the front runs on, as localhost or by its address; run imlb sessions there", http.StatusForbidden)
			return
		}
		h(w, r)
	}
}

// isOfThisMachine tells whether a request comes from a loopback address, or from the very address that it came to.
func isOfThisMachine(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	to, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	addr := from.Addr().Unmap()
	return addr.IsLoopback() || ok && to.AddrPort().Addr().Unmap() == addr
}

// isNamedLocally tells whether a request calls the front by an address, or localhost: a page in a browser on this machine may have
// a name of its own lead here, and would then be taken for ours (DNS rebinding).
func isNamedLocally(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}
