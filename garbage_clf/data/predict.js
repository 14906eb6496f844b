// The part of use.page that runs in the page: photos and words go to Python, answers come back.
// It follows parts.js. Text is always set as text, never as HTML; pictures are JPEG files from Python.

const PIECE = 1 << 20 // Bytes of a photo in one message: servers close the connection over larger ones
const PATIENCE = 90 // Seconds to wait for Python

const { element: part, button: press } = maker('predict')

function jpegUrl(buffer) {
  return URL.createObjectURL(new Blob([buffer], { type: 'image/jpeg' }))
}

function render({ model, el }) {
  const takes = model.get('takes')
  const items = new Map() // Number of a question to what is known about it
  const first = 1000 * Math.floor(1e12 * Math.random()) // Another view of the widget has other numbers
  let chosen = 0
  let last = first
  let timer = null
  let stream = null // Of the camera
  const waiting = new Map() // Number of a question to what goes on when Python has a piece of its photo

  function tell(content, buffers = []) {
    clearTimeout(timer)
    timer = setTimeout(() => say('There is no answer. Reload the page, or run the cell again.'), 1000 * PATIENCE)
    model.send(content, undefined, buffers)
  }

  function say(text) {
    message.textContent = text
  }

  // Asking

  function begin(name) {
    last += 1
    const item = { id: last, name, words: words.value.trim(), busy: true, error: '', answer: null, open: false, note: '' }
    items.set(item.id, item)
    chosen = item.id
    say('')
    return item
  }

  function fail(item, text) {
    item.busy = false
    item.error = item.name ? `${item.name}: ${text}` : text
    show()
  }

  async function send(item, file) {
    const most = model.get('megabytes')
    if (file.size > most * 1e6) return fail(item, `it has ${(file.size / 1e6).toFixed(1)} MB, and at most ${most} are taken`)
    let start = 0
    do {
      const piece = await file.slice(start, start + PIECE).arrayBuffer()
      const taken = new Promise((resolve) => waiting.set(item.id, resolve))
      tell({ do: 'piece', id: item.id, name: file.name, size: file.size, start, words: item.words }, [piece])
      if (!(await taken) || !items.has(item.id)) return
      start += PIECE
    } while (start < file.size)
  }

  async function ask(files) {
    closeCamera()
    const before = items.get(chosen)
    if (before && before.photo && before.words === words.value.trim()) words.value = '' // They were about that photo
    const most = model.get('items')
    const room = most - items.size
    const list = [...files].slice(0, Math.max(room, 0)).map((file) => [begin(file.name || 'photo'), file])
    if (list.length > 1) chosen = list[0][0].id
    if (files.length > room) say(`At most ${most} at a time: start anew for more.`)
    show()
    for (const [item, file] of list) {
      if (!items.has(item.id)) return // Started anew meanwhile
      try { await send(item, file) } catch { fail(item, 'it cannot be read') }
    }
  }

  function askWords() {
    const item = items.get(chosen)
    const text = words.value.trim()
    if (item && item.photo) {
      Object.assign(item, { words: text, busy: true, error: '', heat: null, open: false, note: '' })
      tell({ do: 'ask', id: item.id, words: text })
    } else if (text && items.size < model.get('items')) {
      const asked = begin('')
      tell({ do: 'ask', id: asked.id, words: text })
    } else say(text ? 'Start anew for more.' : 'Write a word or two, or choose a photo.')
    show()
  }

  function clear() {
    for (const node of root.querySelectorAll('img')) URL.revokeObjectURL(node.src)
    items.clear()
    chosen = 0
    words.value = ''
    say('')
    tell({ do: 'clear', id: first })
    show()
  }

  // The camera of a computer; a phone has its own behind an input

  async function openCamera() {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } })
    } catch {
      return say('The browser gives no camera. Choose a photo instead.')
    }
    const video = part('video', 'video')
    Object.assign(video, { srcObject: stream, autoplay: true, playsInline: true, muted: true })
    const take = press('button predict-main', 'Take the photo', () => {
      const canvas = document.createElement('canvas')
      canvas.width = video.videoWidth
      canvas.height = video.videoHeight
      canvas.getContext('2d').drawImage(video, 0, 0)
      canvas.toBlob((blob) => ask([new File([blob], 'camera.jpg')]), 'image/jpeg', 0.92)
    })
    camera.replaceChildren(video, take, press('button', 'Close the camera', closeCamera))
  }

  function closeCamera() {
    if (stream) stream.getTracks().forEach((track) => track.stop())
    stream = null
    camera.replaceChildren()
  }

  function input(camera) {
    const node = part('input', 'file')
    Object.assign(node, { type: 'file', accept: 'image/*', multiple: !camera })
    if (camera) node.setAttribute('capture', 'environment')
    node.addEventListener('change', () => {
      ask([...node.files])
      node.value = ''
    })
    return node
  }

  // The answer

  function photoOf(item) {
    const node = part('div', 'photo')
    if (!item.photo) return node
    const image = part('img', 'image')
    image.alt = item.name
    image.src = item.heat && item.open ? item.heat : item.photo
    node.append(image)
    if (model.get('explains') && item.answer) {
      const text = item.open ? 'Show the photo' : `What speaks for ${item.answer.label}?`
      node.append(press('button predict-quiet', text, () => explain(item)))
    }
    return node
  }

  function explain(item) {
    item.open = !item.open
    if (item.open && !item.heat) {
      item.note = 'Looking...'
      tell({ do: 'explain', id: item.id })
    }
    show()
  }

  function band(answer) {
    const node = part('div', `band predict-${answer.state}`)
    if (answer.state === 'confident') [node.style.backgroundColor, node.style.color] = answer.colours
    else node.style.borderColor = answer.colours[0]
    node.append(part('div', 'headline', answer.headline))
    if (answer.about) node.append(part('div', 'about', answer.about))
    return node
  }

  function feedback(item) {
    const node = part('div', 'feedback')
    if (!model.get('keeps')) return node
    if (item.kept) return node.append(part('div', 'line', item.kept)), node
    const choice = part('select', 'select')
    choice.setAttribute('aria-label', 'what it is')
    choice.append(new Option('it is ...', ''), ...model.get('classes').map((name) => new Option(name, name)))
    choice.addEventListener('change', () => choice.value && tell({ do: 'correct', id: item.id, label: choice.value }))
    const right = press('button predict-quiet', 'Yes', () => tell({ do: 'correct', id: item.id, label: item.answer.label }))
    node.append(part('span', 'line', 'Is that right?'), right, part('span', 'line', 'No,'), choice,
      part('div', 'small', model.get('keeps')))
    return node
  }

  function facts(item) {
    const node = part('div', 'facts')
    if (item.busy) return node.append(part('div', 'line', 'Looking...')), node
    if (item.error) return node.append(part('div', 'error', item.error)), node
    const answer = item.answer
    node.append(band(answer))
    const lines = [answer.rule, answer.doubt, answer.says, answer.note, item.note]
    const bars = part('div', 'bars')
    bars.append(...answer.bars.map(bar))
    node.append(...lines.slice(0, 2).filter((text) => text).map((text) => part('p', 'line', text)), bars)
    node.append(...lines.slice(2).filter((text) => text).map((text) => part('p', `line predict-says`, text)))
    node.append(feedback(item))
    return node
  }

  function row(item) {
    const node = press(`row ${item.id === chosen ? 'predict-chosen' : ''}`, '', () => {
      chosen = item.id
      words.value = item.words
      show()
    })
    const small = part(item.photo ? 'img' : 'span', 'tiny')
    if (item.photo) Object.assign(small, { src: item.photo, alt: '' })
    const dot = part('span', 'dot')
    const answer = item.answer
    if (answer) dot.style.borderColor = answer.colours[0]
    if (answer && answer.state === 'confident') dot.style.backgroundColor = answer.colours[0]
    let text = answer ? `${answer.headline} (${answer.label}, ${Math.round(100 * answer.probability)} %)` : '...'
    if (item.error) text = item.error
    const cell = part('span', 'cell', text)
    cell.append(part('span', 'under', item.words.slice(0, 200) || (item.error ? '' : item.name)))
    node.append(small, dot, cell)
    return node
  }

  function show() {
    const item = items.get(chosen)
    answerPlace.replaceChildren()
    if (item) answerPlace.append(facts(item), photoOf(item))
    answerPlace.hidden = !item
    again.hidden = !item
    const all = [...items.values()]
    batch.hidden = all.length < 2
    if (batch.hidden) return batch.replaceChildren()
    const save = press('button predict-quiet', 'Save as CSV', () => tell({ do: 'table', id: first }))
    batch.replaceChildren(part('div', 'title', `${all.length} answers`), ...all.map(row), save)
  }

  function download(buffer) {
    const link = part('a', 'link')
    link.href = URL.createObjectURL(new Blob([buffer], { type: 'text/csv' }))
    link.download = 'answers.csv'
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 1000)
  }

  // What Python says

  function receive(content, buffers) {
    clearTimeout(timer)
    if (content.what === 'table' && content.id === first && buffers.length) return download(buffers[0])
    const item = items.get(content.id)
    const go = waiting.get(content.id)
    waiting.delete(content.id)
    if (go) go(content.what === 'piece')
    if (!item || content.what === 'piece') return content.error ? say(content.error) : undefined
    if (content.what === 'answer') Object.assign(item, { busy: false, answer: content.answer, error: content.error, kept: '' })
    if (content.what === 'answer' && buffers.length) item.photo = jpegUrl(buffers[0])
    if (content.what === 'explain') Object.assign(item, { note: content.error, open: !content.error })
    if (content.what === 'explain' && buffers.length) item.heat = jpegUrl(buffers[0])
    if (content.what === 'correct') Object.assign(item, { kept: content.text, note: content.error })
    show()
  }

  // The page

  const root = part('div', 'root')
  root.dataset.lmSuppressShortcuts = 'true' // JupyterLab's own keys stay quiet here
  if (model.get('title')) {
    root.classList.add('predict-page')
    root.append(part('h1', 'h1', model.get('title')))
  }
  const place = part('div', 'drop')
  const camera = part('div', 'camera')
  const onPhone = window.matchMedia('(pointer: coarse)').matches
  const files = input(false)
  const shots = input(true)
  const choose = press(`button ${onPhone ? '' : 'predict-main'}`, 'Choose photos', () => files.click())
  const shoot = press(`button ${onPhone ? 'predict-main' : ''}`, 'Take a photo', () => (onPhone ? shots.click() : openCamera()))
  const hasCamera = onPhone || (navigator.mediaDevices && navigator.mediaDevices.getUserMedia)
  const again = press('button predict-quiet', 'Start anew', clear)
  if (takes.includes('image')) {
    const buttons = onPhone ? [shoot, choose] : [choose, ...(hasCamera ? [shoot] : [])]
    place.append(...buttons, files, shots)
    if (!onPhone) place.append(part('span', 'small predict-hint', 'or drop photos here'))
  }
  const words = part('input', 'words')
  Object.assign(words, { type: 'text', placeholder: takes.includes('image') ? 'words, such as pizza box' : 'such as pizza box' })
  words.setAttribute('aria-label', 'words')
  words.addEventListener('keydown', (event) => {
    event.stopPropagation()
    if (event.key === 'Enter') askWords()
  })
  const form = part('div', 'form')
  if (takes.includes('text')) form.append(words, press('button', 'Ask', askWords))
  const message = part('div', 'message')
  message.setAttribute('role', 'status')
  const answerPlace = part('div', 'answer')
  answerPlace.setAttribute('aria-live', 'polite')
  const batch = part('div', 'batch')
  root.append(place, camera, form, message, answerPlace, batch, again, part('div', 'footer', model.get('about')))
  el.append(root)

  function drop(event) {
    event.preventDefault()
    event.stopPropagation()
    place.classList.toggle('predict-over', event.type === 'dragover')
    if (event.type === 'drop' && event.dataTransfer.files.length && takes.includes('image')) ask([...event.dataTransfer.files])
  }
  for (const name of ['dragover', 'dragleave', 'drop']) root.addEventListener(name, drop)
  root.addEventListener('paste', (event) => {
    if (event.clipboardData.files.length && takes.includes('image')) ask([...event.clipboardData.files])
  })
  model.on('msg:custom', receive)
  show()
  return () => {
    clearTimeout(timer)
    closeCamera()
    model.off('msg:custom', receive)
    for (const node of el.querySelectorAll('img')) URL.revokeObjectURL(node.src)
  }
}

export default { render }
