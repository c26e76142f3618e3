# python3: four threads that answer over two queues, 5,000 round trips.
[ "$1" = small ] && count=50 || count=5000
exec python3 -c '
import queue, sys, threading
count = int(sys.argv[1])
questions, answers = queue.Queue(), queue.Queue()
def work():
    while (number := questions.get()) is not None:
        answers.put(number + 1)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
total = 0
for number in range(count):
    questions.put(number)
    total += answers.get()
for thread in threads:
    questions.put(None)
for thread in threads:
    thread.join()
print(total)' $count
