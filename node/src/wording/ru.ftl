voice-call = Вам звонит { $name }
video-call = Видеозвонок: { $name }
message =
    { $count ->
        [one] { $count } сообщение от: { $name }
        [few] { $count } сообщения от: { $name }
        [many] { $count } сообщений от: { $name }
       *[other] { $count } сообщения от: { $name }
    }
missed-call =
    { $count ->
        [one] { $count } пропущенный звонок: { $name }
        [few] { $count } пропущенных звонка: { $name }
        [many] { $count } пропущенных звонков: { $name }
       *[other] { $count } пропущенного звонка: { $name }
    }
contact-request = { $name } хочет добавить вас в контакты
voicemail =
    { $count ->
        [one] { $count } голосовое сообщение от: { $name }
        [few] { $count } голосовых сообщения от: { $name }
        [many] { $count } голосовых сообщений от: { $name }
       *[other] { $count } голосового сообщения от: { $name }
    }
file =
    { $count ->
        [one] { $name } отправляет вам { $count } файл
        [few] { $name } отправляет вам { $count } файла
        [many] { $name } отправляет вам { $count } файлов
       *[other] { $name } отправляет вам { $count } файла
    }
mail = Письмо: { $name }
self-test = Проверочное уведомление получено
notice = Новое от: { $name }
shown-on = { $event } (показано на устройстве { $device })
accept = Принять
decline = Отклонить
