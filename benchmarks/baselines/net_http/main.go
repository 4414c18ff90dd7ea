// Baseline: Go's net/http with the tiny program in process. No bus, no isolation, no schema, no version.
package main

import (
	"encoding/json"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
)

type request struct {
	Input struct {
		Text string `json:"text"`
	} `json:"input"`
}

type response struct {
	Output string `json:"output"`
}

func execute(w http.ResponseWriter, r *http.Request) {
	var body request
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, "malformed JSON", http.StatusBadRequest)
		return
	}
	answer := response{Output: "ham"}
	if strings.Contains(body.Input.Text, "free") {
		answer.Output = "spam"
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		log.Print(err)
	}
}

// The one argument is the address to listen on.
func main() {
	http.HandleFunc("POST /execute", execute)
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, nil))
}
