G=/tmp/apis/glm
(setsid $G serve smollm2:135m --port 4711 --grpc-port 4712 --ollama-port 4713 --threads 1 --embedding-model minilm > /tmp/apis/a.log 2>&1 & echo $! > /tmp/apis/a.pid)
for i in $(seq 60); do curl -sf http://127.0.0.1:4711/ready >/dev/null && break; sleep .3; done
export GLM_CLIENT_URL=http://127.0.0.1:4711
curl -sN http://127.0.0.1:4711/v1/chat/completions -d "{\"messages\":[{\"role\":\"user\",\"content\":\"$(printf 'hello world %.0s' {1..800})\"}],\"max_tokens\":2,\"stream\":true,\"return_progress\":true,\"temperature\":0}" | grep -o '"choices.*' 
$G ps; $G ps --json | head -c 300; echo
$G keys create shop --rpm 5; $G keys list; K=$($G keys create shop2 2>/dev/null | grep -o 'glm_[A-Za-z0-9_]*' | head -1); echo key $K; $G keys show ${K%_*} | head; $G keys revoke ${K%_*}
$G logs -n 3; 
printf '{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"Hi"}],"max_tokens":3}}\n' > /tmp/apis/b1.jsonl
$G batch run /tmp/apis/b1.jsonl 2>&1 | tail -5 || $G batch --help | head -30; $G batch list
$G config show | head -8; $G stop nope; $G stop minilm; $G ps; $G stop --server --delay 2; curl -s http://127.0.0.1:4711/ready; sleep 4; $G ps; tail -3 /tmp/apis/a.log
