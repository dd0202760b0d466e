package test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"imlb/test/need"
)

// TestReadme pastes what the README says to paste: two lines of go-sendxmpp and
// a bot. Only ports and paths are this test's own.
func TestReadme(t *testing.T) {
	t.Parallel()
	needSlixmpp(t)
	need.Command(t, "go-sendxmpp")
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	users := regexp.MustCompile(`imlb dev --data \S+ (--user \S+ --user \S+)`).FindStringSubmatch(string(readme))
	if users == nil {
		t.Fatal("the README shows no imlb dev with --data and two users")
	}
	d := startDev(t, devOptions{args: strings.Fields(users[1])})
	here := strings.NewReplacer("/tmp/imlb-dev", d.dir, "5222", strconv.Itoa(d.base))

	paste := func(language, part string) string { return here.Replace(block(t, string(readme), language, part)) }

	listener := start(t, "go-sendxmpp -l", "bash", []string{"-c", paste("sh", " -l\n")})
	if out, code := runs(t, "", "bash", []string{"-c", paste("sh", "echo ")}); code != 0 {
		t.Fatalf("the line that sends ended with %d:\n%s", code, out)
	}
	bot := start(t, "the bot of the README", python, []string{"-u", "-c", paste("python", "EchoBot")})
	bot.awaitLine("listening")
	listener.awaitLine("Echo: hello bob") // which waited for him
	if out, code := runs(t, "", "bash", []string{"-c", strings.Replace(paste("sh", "echo "), "hello bob", "hello bot", 1)}); code != 0 {
		t.Fatalf("the line that sends ended with %d:\n%s", code, out)
	}
	listener.awaitLine("Echo: hello bot")
	listener.signal(syscall.SIGTERM)
	listener.awaitExit()
}

// block returns the fenced block of a language that contains part.
func block(t *testing.T, markdown, language, part string) string {
	t.Helper()
	for _, rest := range strings.Split(markdown, "\n```"+language+"\n")[1:] {
		text, _, _ := strings.Cut(rest, "```")
		if strings.Contains(text, part) {
			return text
		}
	}
	t.Fatalf("no %s block with %q", language, part)
	return ""
}
